"""What formats share: listing and opening files (`files`, `tars`), safe unpickling (`pickles`), decoding images (`pixels`)."""
