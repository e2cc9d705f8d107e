"""One encoder in the layout of the Hugging Face Hub: the files of timm, and a card whose metadata the Hub accepts."""

from dual_encoder.export import timm
from dual_encoder.export.source import Content, Source


def write(source: Source) -> Content:
    """Returns the encoder of one sensor; UserError as of `timm.write`, and for a ResNet that timm cannot build."""
    content = timm.write(source, "timm")
    more = """

To publish the folder, run `hf upload OWNER/NAME .` in it; then `timm.create_model("hf-hub:OWNER/NAME",
pretrained=True)` loads it anywhere."""
    return content._replace(loading=content.loading + more)


def load(folder):
    """Returns what `timm.load` returns, after huggingface_hub has read the card."""
    from huggingface_hub import ModelCard

    from dual_encoder.export import timm

    data = ModelCard.load(f"{folder}/README.md").data
    assert data.library_name == "timm" and data.license and data.tags, data
    return timm.load(folder)
