import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

const symbolic = /^[augo]*(?:[-+=][rwxXstugo]*)+(?:,[augo]*(?:[-+=][rwxXstugo]*)+)*$/

/** Refuses a `--chmod` that is neither octal up to 7777 nor symbolic in the grammar of chmod(1). */
export function checkMode(mode: string): void {
  if (/^[0-7]+$/.test(mode) && Number.parseInt(mode, 8) <= 0o7777) return
  if (symbolic.test(mode)) return
  throw new BuilderError('ISB_DOCKERFILE_SYNTAX', `invalid mode ${JSON.stringify(mode)} for --chmod`, {
    hint: 'Use an octal number up to 7777 like 0755, or changes like `u=rwX,go=rX`.',
  })
}

/** Refuses a `--chown` that cannot be `user[:group]`. */
export function checkOwner(owner: string): void {
  const parts = owner.split(':')
  if (parts.length <= 2 && parts[0] !== '' && !/[\s\u0000-\u001f\u007f]/.test(owner)) return
  throw new BuilderError('ISB_DOCKERFILE_SYNTAX', `invalid owner ${JSON.stringify(owner)} for --chown`, {
    hint: 'Write `user[:group]`, names or numbers.',
  })
}
