_base_ = [
    '../_base_/models/segformer_iformer.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/default_runtime_seg.py',
]

# Not published; docs/segmentation.md has mmseg's figures. The recipe is that of its SegFormer: UPerNet's
# schedule, with ten times the learning rate in the head.
model = dict(
    backbone=dict(
        arch='m',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_m_distill.pth'
        ),
    ),
)
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))))
default_hooks = dict(checkpoint=dict(interval=16000))
