# VMamba-S (s2l15): its backbone with VMamba's own drop path, the channels of its stages, and the ImageNet weights that
# its authors published.
backbone = dict(type='mmsparx.VMamba', arch='small', drop_path_rate=0.3)
channels = [96, 192, 384, 768]
init_cfg = dict(
    type='Pretrained',
    checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_small_0229_ckpt_epoch_222.pth',
)
