# ADE20K at 512x512 crops, tested on the whole image. The data root follows MMIFORMER_DATA when it is set.
data_root = '{{$MMIFORMER_DATA:data}}/ade/ADEChallengeData2016/'
crop_size = (512, 512)
# The network wants 32 pixels at least, also of what --tta makes half as large: 1024 / 32.
load_image = dict(type='LoadCheckedImage', max_ratio=32)

train_pipeline = [
    load_image,
    dict(type='LoadCheckedSegMap'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
# The truth is loaded after resizing: predictions are brought back to the image's own size.
test_pipeline = [
    load_image,
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadCheckedSegMap'),
    dict(type='PackSegInputs'),
]
# tools/test.py --tta: mmseg's usual six scales, each of them flipped too.
tta_pipeline = [
    load_image,
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(2048 * r), int(512 * r)), keep_ratio=True)
                for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)],
            [dict(type='LoadCheckedSegMap')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmiformer.datasets.segmentation.CheckedADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmiformer.datasets.segmentation.CheckedADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
