import { displayText } from './display-width.js'
import { redactUrls } from './redact.js'

/**
 * A line that may quote what others wrote, such as a registry or an archive, as a terminal may safely show it: control
 * characters (line feeds, too), bidirectional overrides and passwords in URLs are masked.
 */
export function displayLine(text: string): string {
  return displayText(redactUrls(text))
}
