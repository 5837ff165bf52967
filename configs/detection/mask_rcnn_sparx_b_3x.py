# The paper reports 51.8 box AP and 45.8 mask AP on COCO val2017.
_base_ = ['./_base_/models/mask_rcnn_sparx_b.py', './_base_/schedules/coco_3x.py']
