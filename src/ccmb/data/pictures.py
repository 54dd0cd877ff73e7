import tarfile,io,os
from PIL import Image
from ccmb.errors import CcmbError
class UnreadablePicture(CcmbError): pass
class Pictures:
    def __init__(s,p):
        s.p=str(p);s.idx={m.name:(m.offset_data,m.size) for m in tarfile.open(s.p)};s.f=None;s.pid=None
    @classmethod
    def open(c,p): return c(p)
    def raw(s,n):
        if s.f is None or s.pid!=os.getpid(): s.f=open(s.p,'rb');s.pid=os.getpid()
        o,z=s.idx[n];s.f.seek(o);return s.f.read(z)
    def load(s,n): return Image.open(io.BytesIO(s.raw(n))).convert('RGB')
    def __getstate__(s): return {'p':s.p,'idx':s.idx,'f':None,'pid':None}
