# Made from mmiformer/zoo/peers.py by tools/generate.py.
# ResNet-18. mmdet's and mmseg's own network, torchvision's first weights. mmdet's R-50 freezes the stem and
# the first stage; here they are trained.
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
