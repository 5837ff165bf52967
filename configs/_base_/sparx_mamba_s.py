# SparX-Mamba-S: its backbone, the channels of its stages, and the ImageNet weights that its authors published.
backbone = dict(type='mmsparx.SparXMamba', arch='small')
channels = [96, 192, 328, 544]
init_cfg = dict(
    type='Pretrained',
    checkpoint='https://github.com/LMMMEng/SparX/releases/download/v1/sparx_mamba_small_in1k.pth',
)
