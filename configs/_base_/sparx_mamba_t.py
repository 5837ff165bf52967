# SparX-Mamba-T: its backbone, the channels of its stages, and the ImageNet weights that its authors published.
backbone = dict(type='mmsparx.SparXMamba', arch='tiny')
channels = [96, 192, 320, 512]
init_cfg = dict(
    type='Pretrained',
    checkpoint='https://github.com/LMMMEng/SparX/releases/download/v1/sparx_mamba_tiny_in1k.pth',
)
