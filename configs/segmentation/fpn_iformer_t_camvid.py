# An example of data of one's own: CamVid, 11 classes, 480x360. docs/own_segmentation_data.md goes through it.
_base_ = './fpn_iformer_t_ade20k.py'

data_root = '{{$MMIFORMER_DATA:data}}/camvid/'
metainfo = dict(
    classes=(
        'sky',
        'building',
        'pole',
        'road',
        'pavement',
        'tree',
        'sign',
        'fence',
        'car',
        'pedestrian',
        'bicyclist',
    ),
    palette=[
        [128, 128, 128],
        [128, 0, 0],
        [192, 192, 128],
        [128, 64, 128],
        [60, 40, 222],
        [128, 128, 0],
        [192, 128, 128],
        [64, 64, 128],
        [64, 0, 128],
        [64, 64, 0],
        [0, 128, 192],
    ],
)
crop_size = (256, 256)
train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='LoadCheckedSegMap'),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='LoadCheckedSegMap'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (0.75, 1.0, 1.25)],
            [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)],
            [dict(type='LoadCheckedSegMap')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
# The masks hold 0..10 in the order of the classes, and 11 where nothing is to be learnt.
dataset = dict(
    type='mmiformer.datasets.segmentation.CheckedSegDataset',
    data_root=data_root,
    metainfo=metainfo,
    void=[11],
)
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=2,
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    num_workers=2,
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix=dict(img_path='images/test', seg_map_path='annotations/test'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
# A decoder of 64 channels: on images this small the published one costs eight times the backbone.
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(norm_eval=False),  # Batches of 8 crops carry BatchNorm; from scratch it must learn.
    neck=dict(out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=64,
        num_classes=11,
        # From tools/class_shares.py: poles, signs and people are few pixels.
        loss_decode=dict(class_weight=[0.88, 0.75, 3.63, 0.64, 1.7, 1.15, 3.32, 3.39, 1.49, 4.5, 6.66]),
    ),
)
# Some 35 minutes from scratch on two CPU cores; give a GPU more.
max_iters = 3600
train_cfg = dict(max_iters=max_iters, val_interval=400)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=100, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=100, end=max_iters, by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=400))
