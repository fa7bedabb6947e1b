# An example of data of one's own: single blood cells in three class folders, 30 to 300 pixels wide.
# docs/own_classification_data.md goes through it.
_base_ = './iformer_t_in1k.py'

data_root = '{{$MMIFORMER_DATA:data}}/cells/'
classes = ('Platelets', 'RBC', 'WBC')
dataset = dict(
    type='mmiformer.datasets.classification.CheckedFolderDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
)
resizing = dict(backend='pillow', interpolation='bicubic')  # As apps without OpenCV resize.
train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='RandomResizedCrop', scale=96, crop_ratio_range=(0.4, 1.0), **resizing),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='ColorJitter', brightness=0.2, contrast=0.2, saturation=0.2),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='ResizeEdge', scale=110, edge='short', **resizing),
    dict(type='CenterCrop', crop_size=96),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    dataset=dict(_delete_=True, **dataset, data_prefix='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=2,
    dataset=dict(_delete_=True, **dataset, data_prefix='val', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='Accuracy'),
    dict(type='SingleLabelMetric', items=['precision', 'recall'], average=None),
]
test_evaluator = val_evaluator
model = dict(
    data_preprocessor=dict(num_classes=len(classes)),
    head=dict(num_classes=len(classes)),
    train_cfg=None,  # No mixing of images: with few classes and epochs it slows learning down.
)
# Some minutes from scratch on two CPU cores.
max_epochs = 30
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=2, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs - 2,
        eta_min=1e-6,
        begin=2,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=32)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=10))
