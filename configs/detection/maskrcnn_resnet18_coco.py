# Made from mmiformer/zoo/peers.py by tools/generate.py.
# ResNet-18; docs/peers.md says where its weights are from, and how the authors' own recipe differs.
_base_ = './maskrcnn_iformer_m_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.pytorch.org/models/resnet18-f37072fd.pth',
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
