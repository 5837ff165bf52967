# VMamba-B (s2l15): its backbone with VMamba's own drop path, the channels of its stages, and the ImageNet weights that
# its authors published.
backbone = dict(type='mmsparx.VMamba', arch='base', drop_path_rate=0.6)
channels = [128, 256, 512, 1024]
init_cfg = dict(
    type='Pretrained',
    checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_base_0229_ckpt_epoch_237.pth',
)
