# The paper reports a top-1 accuracy of 83.4 on ImageNet-1K's validation set.
# Does not agree to the printed digits: no reading of the text gives 30.9 M and 6.0 G; here S=1 and no window hold in
# every stage that has ganglion layers.
_base_ = ['./_base_/in1k.py', './_base_/dsn.py']

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
