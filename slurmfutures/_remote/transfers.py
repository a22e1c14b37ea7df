class Transfers:
    def __init__(self, post, send):
        pass

    def message(self, head, body, reply):
        pass

    def close(self):
        pass
