# COCO 2017 at 640x640 as mmdet's RTMDet of size s trains on it: mosaics of four images mixed with
# others, and single images at the end of the training (train_pipeline_stage2, see the schedule). Configs of
# size tiny make it milder.
_base_ = './coco_detection.py'

load_boxes = dict(type='LoadAnnotations', with_bbox=True)
size = (640, 640)
pad = dict(type='Pad', size=size, pad_val=dict(img=(114, 114, 114)))

train_pipeline = [
    dict(type='LoadCheckedImage'),
    load_boxes,
    dict(type='CachedMosaic', img_scale=size, pad_val=114.0),
    dict(type='RandomResize', scale=(1280, 1280), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=size),
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
    dict(type='PackDetInputs'),
]
train_pipeline_stage2 = [
    dict(type='LoadCheckedImage'),
    load_boxes,
    dict(type='RandomResize', scale=size, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=size),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    pad,
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='Resize', scale=size, keep_ratio=True),
    pad,
    load_boxes,
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=10,
    # Workers that start anew with each epoch start with empty caches of images, so that a resumed run repeats
    # the next epoch exactly.
    persistent_workers=False,
    batch_sampler=None,
    pin_memory=True,
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=5, num_workers=10, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(proposal_nums=(100, 1, 10))
test_evaluator = val_evaluator
