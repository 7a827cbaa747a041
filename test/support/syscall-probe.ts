/** One system call with its number on x86-64 and up to four arguments. */
export type Call = readonly [number: number, ...args: number[]]

const base = 0x400000
const headers = 64 + 56

/**
 * A static x86-64 program that makes the calls in order and writes the low 32 bits of every result to its
 * standard output.
 */
export function syscallProbe(calls: readonly Call[]): Buffer {
  const code = (table: number, results: number): Buffer =>
    Buffer.concat([
      movabs(0xbc49, table), // r12: the next call
      movabs(0xbd49, results), // r13: the next result
      movabs(0xbe49, calls.length), // r14: calls left
      Buffer.from('498b0424', 'hex'), // mov rax, [r12]
      Buffer.from('498b7c2408', 'hex'), // mov rdi, [r12 + 8]
      Buffer.from('498b742410', 'hex'), // mov rsi, [r12 + 16]
      Buffer.from('498b542418', 'hex'), // mov rdx, [r12 + 24]
      Buffer.from('4d8b542420', 'hex'), // mov r10, [r12 + 32]
      Buffer.from('0f05', 'hex'), // syscall
      Buffer.from('41894500', 'hex'), // mov [r13], eax
      Buffer.from('4983c428', 'hex'), // add r12, 40
      Buffer.from('4983c504', 'hex'), // add r13, 4
      Buffer.from('49ffce', 'hex'), // dec r14
      Buffer.from([0x75, 0x100 - 43]), // jnz to the first mov
      Buffer.from('b801000000bf01000000', 'hex'), // mov eax, 1; mov edi, 1
      movabs(0xbe48, results), // rsi
      movabs(0xba48, calls.length * 4), // rdx
      Buffer.from('0f05b83c00000031ff0f05', 'hex'), // syscall; exit(0)
    ])
  const table = base + headers + code(0, 0).length
  const words = calls.flatMap((call) => Array.from({ length: 5 }, (_, i) => call[i] ?? 0))
  const data = Buffer.alloc(words.length * 8)
  for (const [i, word] of words.entries()) data.writeBigInt64LE(BigInt(word), i * 8)
  const results = table + data.length
  const text = Buffer.concat([code(table, results), data])
  return Buffer.concat([elfHeader(), programHeader(headers + text.length, calls.length * 4), text])
}

/** `mov r64, imm64`; `opcode` is its two bytes, little endian. */
function movabs(opcode: number, value: number): Buffer {
  const bytes = Buffer.alloc(10)
  bytes.writeUInt16LE(opcode)
  bytes.writeBigUInt64LE(BigInt(value), 2)
  return bytes
}

function elfHeader(): Buffer {
  const header = Buffer.alloc(64)
  header.write('\x7fELF\x02\x01\x01', 'latin1')
  header.writeUInt16LE(2, 16) // ET_EXEC
  header.writeUInt16LE(62, 18) // EM_X86_64
  header.writeUInt32LE(1, 20)
  header.writeBigUInt64LE(BigInt(base + headers), 24)
  header.writeBigUInt64LE(64n, 32)
  header.writeUInt16LE(64, 52)
  header.writeUInt16LE(56, 54)
  header.writeUInt16LE(1, 56)
  return header
}

function programHeader(size: number, zeroed: number): Buffer {
  const header = Buffer.alloc(56)
  header.writeUInt32LE(1) // PT_LOAD
  header.writeUInt32LE(7, 4) // read, write, execute
  header.writeBigUInt64LE(BigInt(base), 16)
  header.writeBigUInt64LE(BigInt(base), 24)
  header.writeBigUInt64LE(BigInt(size), 32)
  header.writeBigUInt64LE(BigInt(size + zeroed), 40)
  header.writeBigUInt64LE(4096n, 48)
  return header
}
