namespace peal {}
