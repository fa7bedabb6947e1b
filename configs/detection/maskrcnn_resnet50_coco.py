# Made from mmiformer/zoo/peers.py by tools/generate.py.
# ResNet-50; docs/peers.md says where its weights are from, and how the authors' own recipe differs.
_base_ = './maskrcnn_iformer_m_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=50,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.pytorch.org/models/resnet50-0676ba61.pth',
        ),
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
