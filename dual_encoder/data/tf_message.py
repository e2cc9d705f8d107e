"""The protobuf message tf.train.Example, from its public description (tensorflow/core/example/{example,feature}.proto).

It is described here, because the packages that bring it (TensorFlow, TensorFlow Datasets) take long to import.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto


def _example() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    for name, kind in (("BytesList", _Field.TYPE_BYTES), ("FloatList", _Field.TYPE_FLOAT),
                       ("Int64List", _Field.TYPE_INT64)):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=_Field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), start=1):
        feature.field.add(name=name.replace("List", "_list").lower(), number=number, type=_Field.TYPE_MESSAGE,
                          type_name=f".tensorflow.{name}", label=_Field.LABEL_OPTIONAL, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")  # how protobuf describes map<string, Feature>
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=_Field.TYPE_MESSAGE, type_name=".tensorflow.Feature",
                    label=_Field.LABEL_OPTIONAL)
    features.field.add(name="feature", number=1, type=_Field.TYPE_MESSAGE, label=_Field.LABEL_REPEATED,
                       type_name=".tensorflow.Features.FeatureEntry")
    file.message_type.add(name="Example").field.add(name="features", number=1, type=_Field.TYPE_MESSAGE,
                                                    type_name=".tensorflow.Features", label=_Field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()  # not the default one, in which TensorFlow describes the same message
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


Example: Any = _example()
