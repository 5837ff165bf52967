# VMamba-T (s2l5), with which the paper compares: its backbone with VMamba's own drop path, the channels of its stages,
# and the ImageNet weights that its authors published.
backbone = dict(type='mmsparx.VMamba', arch='tiny', drop_path_rate=0.2)
channels = [96, 192, 384, 768]
init_cfg = dict(
    type='Pretrained',
    checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_tiny_0230_ckpt_epoch_262.pth',
)
