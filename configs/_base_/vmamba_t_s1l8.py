# VMamba-T (s1l8), which is newer and not in the paper: its backbone with VMamba's own drop path, the channels of its
# stages, and the ImageNet weights that its authors published.
backbone = dict(type='mmsparx.VMamba', arch='tiny_s1l8', drop_path_rate=0.2)
channels = [96, 192, 384, 768]
init_cfg = dict(
    type='Pretrained',
    checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth',
)
