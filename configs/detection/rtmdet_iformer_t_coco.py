_base_ = './rtmdet_iformer_m_coco.py'

# The neck and head of mmdet's size tiny.
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
