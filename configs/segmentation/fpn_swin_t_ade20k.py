# Made from mmiformer/zoo/peers.py by tools/generate.py.
# Swin-T; docs/peers.md says where its weights are from, and how the authors' own recipe differs.
_base_ = './fpn_iformer_m_ade20k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdet.SwinTransformer',
        drop_path_rate=0.2,
        convert_weights=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth',
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
