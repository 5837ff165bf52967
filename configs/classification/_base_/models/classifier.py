# A backbone, which the leaves name, with the published head.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        out_indices=(3,),
        output_norm=False,  # the head has a norm of its own
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    ),
    head=dict(
        type='mmsparx.SparXClsHead',
        num_classes=1000,
        # The loss is that of mixed labels, as in timm.
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    # Each batch gets one of the two at random, with one ratio for the whole batch. timm mixes an image with the one
    # that mirrors its place in the batch, mmpretrain with a random one.
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
