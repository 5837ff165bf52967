# The paper reports 49.4 box AP and 44.1 mask AP on COCO val2017.
_base_ = ['./_base_/models/mask_rcnn_sparx_s.py', './_base_/schedules/coco_1x.py']
