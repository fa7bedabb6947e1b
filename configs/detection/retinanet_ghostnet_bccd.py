_base_ = './retinanet_mocovit_bccd.py'

model = dict(backbone=dict(arch='ghostnet'))
