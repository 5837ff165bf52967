# SparX-Mamba-B: its backbone, the channels of its stages, and the ImageNet weights that its authors published.
backbone = dict(type='mmsparx.SparXMamba', arch='base')
channels = [120, 240, 396, 636]
init_cfg = dict(
    type='Pretrained',
    checkpoint='https://github.com/LMMMEng/SparX/releases/download/v1/sparx_mamba_base_in1k.pth',
)
