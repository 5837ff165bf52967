# This is imagenet_crop95.py, tested on the centre of images resized to 256 (crop ratio 0.875), as VMamba and Swin are.
_base_ = './imagenet_crop95.py'

test_pipeline = [dict(step, scale=256) if step['type'] == 'ResizeEdge' else step for step in _base_.test_pipeline]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
