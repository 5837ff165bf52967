# What the sizes of SparX-Swin share.
init_cfg = None
no_pretrained_weights = 'ImageNet weights of SparX-Swin are not published'

# Of Swin's parameters without weight decay, those that the schedules do not have; the second is the norm of the stem.
paramwise_cfg = dict(
    custom_keys={
        'relative_position_bias_table': dict(decay_mult=0.0),
        'backbone.stem.1.': dict(decay_mult=0.0),
    }
)
