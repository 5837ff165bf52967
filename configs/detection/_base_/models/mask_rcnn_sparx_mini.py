# A small Mask R-CNN, from scratch, for the demo, smoke tests and small data on a CPU. It is not from the paper.
_base_ = ['./mask_rcnn_sparx.py', '../../../_base_/mini_arch.py']

fpn_channels = 64

model = dict(
    backbone=dict(
        arch=_base_.mini_arch,
        aggregator=dict(type='DMCA', learnable_scale=False),
        norm_cfg=dict(type='BN'),
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=_base_.mini_arch.channels, out_channels=fpn_channels),
    # Anchors have half the usual size, since the images are small.
    rpn_head=dict(in_channels=fpn_channels, feat_channels=fpn_channels, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=fpn_channels, finest_scale=28, roi_layer=dict(sampling_ratio=2)),
        bbox_head=dict(in_channels=fpn_channels, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=fpn_channels, finest_scale=28, roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(in_channels=fpn_channels, conv_out_channels=fpn_channels, num_convs=2),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=300), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300)),
)
