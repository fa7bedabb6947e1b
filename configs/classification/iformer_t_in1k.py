_base_ = './iformer_m_in1k.py'

model = dict(backbone=dict(arch='t'), head=dict(in_channels=256))
