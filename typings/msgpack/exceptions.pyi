class UnpackException(Exception): ...

class ExtraData(ValueError):
    extra: bytes
