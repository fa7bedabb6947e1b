_base_ = [
    '../_base_/models/rtmdet.py',
    '../_base_/datasets/coco_detection_mosaic.py',
    '../_base_/schedules/coco_300e.py',
    '../_base_/default_runtime_det.py',
]

# Not published; docs/detection.md has mmdet's figures of RTMDet under this recipe.
model = dict(
    backbone=dict(
        arch='m',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_m_distill.pth',
        ),
    ),
    neck=dict(in_channels=[96, 192, 384]),
)
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True, priority=49),
    dict(
        type='PipelineSwitchHook',
        switch_epoch=_base_.max_epochs - _base_.stage2_epochs,
        switch_pipeline=_base_.train_pipeline_stage2,
    ),
]
default_hooks = dict(checkpoint=dict(interval=10))
