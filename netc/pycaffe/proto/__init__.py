"""The messages under pycaffe's name for them: `from netc.pycaffe.proto import caffe_pb2`."""

from netc.schema import netc_pb2 as caffe_pb2

__all__ = ["caffe_pb2"]
