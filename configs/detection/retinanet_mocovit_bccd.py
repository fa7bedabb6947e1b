# An example of boxes of one's own: blood cells, 640x480, 3 classes, in Pascal VOC's XML.
# docs/own_detection_data.md goes through it.
_base_ = './retinanet_mocovit_coco.py'

data_root = '{{$MMIFORMER_DATA:data}}/bccd/'
classes = ('RBC', 'WBC', 'Platelets')
dataset = dict(
    type='mmiformer.datasets.voc.CheckedXMLDataset',
    data_root=data_root,
    data_prefix=dict(sub_data_root=''),
    metainfo=dict(classes=classes, palette=[(220, 20, 60), (60, 20, 220), (40, 160, 40)]),
)
train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=(320, 240), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(_delete_=True, **dataset, ann_file='ImageSets/Main/train.txt', pipeline=train_pipeline),
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        **dataset,
        ann_file='ImageSets/Main/val.txt',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        **dataset,
        ann_file='ImageSets/Main/test.txt',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
# COCO's metric without a file of COCO's: the truth comes with the images.
val_evaluator = dict(_delete_=True, type='CocoMetric', metric='bbox', classwise=True)
test_evaluator = val_evaluator
model = dict(
    # From scratch. From weights: init_cfg=dict(type='Pretrained', checkpoint=FILE), norm_eval=True.
    backbone=dict(init_cfg=None, norm_eval=False),
    # A quarter of the usual width: for three classes, and a CPU.
    neck=dict(out_channels=64),
    bbox_head=dict(
        num_classes=3,
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(octave_base_scale=2),  # Platelets are 20 pixels wide at this size.
    ),
)
max_iters = 2200
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=440)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=5e-4, weight_decay=0.05), clip_grad=dict(max_norm=5)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=max_iters, eta_min=1e-6),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=440),
    logger=dict(log_metric_by_epoch=False),
)
log_processor = dict(by_epoch=False)
