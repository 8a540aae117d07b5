// Of workerd, and not in the types that go with it yet.
interface Uint8Array {
  toBase64(): string;
  toHex(): string;
}
interface Uint8ArrayConstructor {
  fromBase64(text: string): Uint8Array<ArrayBuffer>;
}
interface String {
  toWellFormed(): string;
}
