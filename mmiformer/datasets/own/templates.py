"""The configs that are written for your own data, by task; ``str.format`` fills them in."""

_HEAD = """\
# For {root}: {found}.
# tools/new_config.py wrote it; what is not here is as in {name}. Change what you like.
_base_ = {base!r}

data_root = {root!r}
labels = {labels!r}  # Rerun tools/new_config.py if the data changes.
classes = {classes}
"""

_DETECTION = """\
# {size_reason}
scale = ({side}, {side})
train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='LoadAnnotations', with_bbox=True{masks}),
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.25), keep_ratio=True),
    # For images without up and down: prob=0.75, direction=['horizontal', 'vertical', 'diagonal'].
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True{masks}),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(data_root=data_root, data_prefix=dict(img=''), metainfo=dict(classes=classes))
# Images without objects are trained on, too.
filter_cfg = dict(filter_empty_gt=False, min_size=1)
train = dict(**dataset, ann_file=labels + 'train.json', filter_cfg=filter_cfg, pipeline=train_pipeline)
val = dict(**dataset, ann_file=labels + 'val.json', pipeline=test_pipeline)
test = dict(**dataset, ann_file=labels + '{test}.json', pipeline=test_pipeline)
train_dataloader = dict(batch_size={batch}, num_workers=2, persistent_workers=True, dataset=train)
val_dataloader = dict(batch_size=1, num_workers=2, dataset=val)
test_dataloader = dict(batch_size=1, num_workers=2, dataset=test)
val_evaluator = dict(ann_file=val['ann_file'], classwise=True)
test_evaluator = dict(ann_file=test['ann_file'], classwise=True)
"""

_SEGMENTATION = """\
# {size_reason}
scale = ({side}, {side})
crop_size = ({crop}, {crop})
train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='LoadCheckedSegMap'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
resize = dict(type='Resize', scale=scale, keep_ratio=True)
test_pipeline = [
    dict(type='LoadCheckedImage'),
    resize,
    dict(type='LoadCheckedSegMap'),
    dict(type='PackSegInputs'),
]
flips = [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)]
steps = [[resize], flips, [dict(type='LoadCheckedSegMap')], [dict(type='PackSegInputs')]]
tta_pipeline = [dict(type='LoadCheckedImage'), dict(type='TestTimeAug', transforms=steps)]
dataset = dict(
    type='mmiformer.datasets.segmentation.CheckedSegDataset',
    data_root=data_root,
    data_prefix=dict(img_path='', seg_map_path=labels + 'masks'),  # masks/x.jpg.png is that of x.jpg.
    img_suffix='',
    metainfo=dict(classes=classes{palette}),
)
train = dict(**dataset, ann_file=labels + 'train.txt', pipeline=train_pipeline)
val = dict(**dataset, ann_file=labels + 'val.txt', test_mode=True, pipeline=test_pipeline)
test = dict(**dataset, ann_file=labels + '{test}.txt', test_mode=True, pipeline=test_pipeline)
train_dataloader = dict(batch_size={batch}, num_workers=2, dataset=dict(_delete_=True, **train))
val_dataloader = dict(num_workers=2, dataset=dict(_delete_=True, **val))
test_dataloader = dict(num_workers=2, dataset=dict(_delete_=True, **test))
"""

_CLASSIFICATION = """\
# {size_reason}
size = {side}
train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='RandomResizedCrop', scale=size, crop_ratio_range=(0.4, 1.0), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ColorJitter', brightness=0.2, contrast=0.2, saturation=0.2),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='ResizeEdge', scale=size * 8 // 7, edge='short', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=size),
    dict(type='PackInputs'),
]
dataset = dict(
    type='mmiformer.datasets.classification.CheckedFolderDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
)
train = dict(**dataset, ann_file=labels + 'train.txt', pipeline=train_pipeline)
val = dict(**dataset, ann_file=labels + 'val.txt', test_mode=True, pipeline=test_pipeline)
test = dict(**dataset, ann_file=labels + '{test}.txt', test_mode=True, pipeline=test_pipeline)
train_dataloader = dict(batch_size={batch}, num_workers=2, dataset=dict(_delete_=True, **train))
val_dataloader = dict(batch_size={batch}, num_workers=2, dataset=dict(_delete_=True, **val))
test_dataloader = dict(batch_size={batch}, num_workers=2, dataset=dict(_delete_=True, **test))
val_evaluator = [
    dict(type='Accuracy'),
    dict(type='SingleLabelMetric', items=['precision', 'recall'], average=None),
]
test_evaluator = val_evaluator
"""

_MODEL = """\
# {weights}
model = {model}
{hooks}# {iterations} iterations of {batch} are {epochs} passes over the {images} training images.
"""

_BY_ITERATIONS = """\
max_iters = {iterations}
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval={interval})
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr={lr:g}, weight_decay={decay}), clip_grad=dict(max_norm=5)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=max_iters, eta_min=1e-6),
]
auto_scale_lr = dict(base_batch_size={batch})
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval={interval}, save_best={best!r}),
    logger=dict(log_metric_by_epoch=False),
)
log_processor = dict(by_epoch=False)
"""

_BY_EPOCHS = """\
max_epochs = {epochs}
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr={lr:g}, weight_decay={decay}))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=max_epochs - 2, eta_min=1e-6, begin=2, end=max_epochs,
         convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size={batch})
default_hooks = dict(logger=dict(interval=10))
"""

TEMPLATES = dict(
    det=_HEAD + _DETECTION + _MODEL + _BY_ITERATIONS,
    ins=_HEAD + _DETECTION + _MODEL + _BY_ITERATIONS,
    seg=_HEAD + _SEGMENTATION + _MODEL + _BY_ITERATIONS,
    cls=_HEAD + _CLASSIFICATION + _MODEL + _BY_EPOCHS,
)
