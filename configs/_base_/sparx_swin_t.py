# SparX-Swin-T (Table 8). The paper's text gives no drop path; Swin-T's is used.
_base_ = './sparx_swin.py'

backbone = dict(type='mmsparx.SparXSwin', arch='tiny', drop_path_rate=0.2)
channels = [96, 192, 320, 576]
