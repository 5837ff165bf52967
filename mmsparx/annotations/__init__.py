"""Checks of annotations before a run reads them: files in COCO's format, folders of classes, label maps.

    coco        `check_coco`, one pass over an annotation file; `masks` and `numbers` are parts of it
    classes     `check_classes`, the classes of a dataset against the categories of its file
    folders     `check_folders`, folders of images, one for each class
    label_maps  `check_label_maps`, images whose pixels are classes, read by Pillow
    findings    what they return: faults by kinds, counted, with the first places of each

`mmsparx check-data` is the command. Nothing but numpy is imported, and no mask is drawn: a coordinate that is NaN or
far outside its image makes pycocotools take all memory. This module itself imports nothing, since the commands have to
start where numpy is broken.
"""
