"""Operations on embeddings that no worker holds whole."""
