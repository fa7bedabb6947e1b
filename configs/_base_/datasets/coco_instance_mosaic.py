# coco_detection_mosaic.py with masks, as mmdet's RTMDet-Ins of size s trains on it.
_base_ = './coco_instance.py'

# Polygons, which mosaics move faster than bitmaps.
load_masks = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)
size = (640, 640)
crop = dict(type='RandomCrop', crop_size=size, recompute_bbox=True, allow_negative_crop=True)
pad = dict(type='Pad', size=size, pad_val=dict(img=(114, 114, 114)))
drop_empty = dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1))

train_pipeline = [
    dict(type='LoadCheckedImage'),
    load_masks,
    dict(type='CachedMosaic', img_scale=size, pad_val=114.0),
    dict(type='RandomResize', scale=(1280, 1280), ratio_range=(0.5, 2.0), keep_ratio=True),
    crop,
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    pad,
    dict(
        type='CachedMixUp',
        img_scale=size,
        ratio_range=(1.0, 1.0),
        max_cached_images=20,
        pad_val=(114, 114, 114),
    ),
    drop_empty,
    dict(type='PackDetInputs'),
]
train_pipeline_stage2 = [
    dict(type='LoadCheckedImage'),
    load_masks,
    dict(type='RandomResize', scale=size, ratio_range=(0.5, 2.0), keep_ratio=True),
    crop,
    drop_empty,
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    pad,
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='Resize', scale=size, keep_ratio=True),
    pad,
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=10,
    persistent_workers=False,  # See coco_detection_mosaic.py.
    batch_sampler=None,
    pin_memory=True,
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=5, num_workers=10, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(proposal_nums=(100, 1, 10))
test_evaluator = val_evaluator
