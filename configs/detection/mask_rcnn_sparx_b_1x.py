# The paper reports 49.7 box AP and 44.3 mask AP on COCO val2017.
_base_ = ['./_base_/models/mask_rcnn_sparx_b.py', './_base_/schedules/coco_1x.py']
