# The paper reports 50.2 box AP and 44.7 mask AP on COCO val2017.
_base_ = ['./_base_/models/mask_rcnn_sparx_t.py', './_base_/schedules/coco_3x.py']
