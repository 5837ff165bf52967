# The paper reports 51.0 box AP and 45.2 mask AP on COCO val2017.
_base_ = ['./_base_/models/mask_rcnn_sparx_s.py', './_base_/schedules/coco_3x.py']
