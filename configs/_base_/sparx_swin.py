# Settings that all sizes of SparX-Swin share.
init_cfg = None
no_pretrained_weights = 'ImageNet weights of SparX-Swin are not published'

# Swin's parameters without weight decay that the schedules do not name; the second is the norm of the stem.
paramwise_cfg = dict(
    custom_keys={
        'relative_position_bias_table': dict(decay_mult=0.0),
        'backbone.stem.1.': dict(decay_mult=0.0),
    }
)
