import pytest
import transformers
from random_parts import save_text_model


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    save_text_model(folder, "bert", transformers.BertModel)
    return folder
