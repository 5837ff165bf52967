# The paper reports 48.1 box AP and 43.1 mask AP on COCO val2017.
_base_ = ['./_base_/models/mask_rcnn_sparx_t.py', './_base_/schedules/coco_1x.py']
