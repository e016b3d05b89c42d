export type AddressSpace = {};
