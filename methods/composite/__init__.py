"""Methods made of methods: rescoring, and any index that faiss can build."""
