_base_ = './rtmdet_iformer_m_coco.py'

# Neck, head and the milder augmentation of mmdet's size tiny: smaller caches, mixup for half of the images.
_base_.train_pipeline[2].update(max_cached_images=20, random_pop=False)
_base_.train_pipeline[8].update(max_cached_images=10, random_pop=False, prob=0.5)
train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
model = dict(
    backbone=dict(
        arch='t',
        init_cfg=dict(
            checkpoint='https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_t.pth'
        ),
    ),
    neck=dict(in_channels=[64, 128, 256], out_channels=96),
    bbox_head=dict(in_channels=96, feat_channels=96),
)
