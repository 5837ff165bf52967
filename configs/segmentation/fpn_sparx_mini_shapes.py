# A small Semantic FPN learns the shapes of demo/make_shapes.py from scratch, in 12 minutes on a CPU.
# tools/dataset_converters/label_maps.py writes their label maps to data_root/label_maps/{train,val}.
_base_ = ['./_base_/models/fpn_sparx_mini.py', './_base_/schedules/ade20k_overfit.py']

data_root = 'work_dirs/demo/data/'
metainfo = dict(
    classes=('background', 'circle', 'triangle', 'square', 'star'),
    palette=[(0, 0, 0), (66, 135, 245), (245, 166, 35), (80, 200, 120), (235, 77, 75)],
)
scale = (128, 128)
max_iters = 1200

model = dict(decode_head=dict(num_classes=5))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=scale),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(_delete_=True, type='BaseSegDataset', data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        **dataset, data_prefix=dict(img_path='train', seg_map_path='label_maps/train'), pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    dataset=dict(**dataset, data_prefix=dict(img_path='val', seg_map_path='label_maps/val'), pipeline=test_pipeline)
)
test_dataloader = val_dataloader

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=1e-6, by_epoch=False, begin=0, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300), logger=dict(interval=20))
