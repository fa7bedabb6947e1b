_base_ = [
    '../_base_/models/mask_rcnn_iformer_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_1x.py',
    '../_base_/default_runtime_det.py',
]

model = dict(
    backbone=dict(
        arch='m',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_m_distill.pth'
        ),
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
